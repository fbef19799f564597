"""ResNet-50 at 224 to 448 px: from scratch, from the weights of a lower resolution, and frozen.

The resolution and freezing studies: batch 1024, lr 0.1 per 256, cosine, 90 epochs with 5 of
warm-up; finetuning 40 epochs without. Crops and evaluation are at the same resolution.

    python -m jcls.main --config configs/resolution_study.py:res=224 --workdir runs/224 \\
        --config.data.dir=DIR
    ... --config configs/resolution_study.py:res=320,init=runs/224 --workdir runs/320
    ... --config configs/resolution_study.py:res=416,init=runs/320,at=320 --workdir runs/416
    ... --config configs/resolution_study.py:res=448,init=runs/224,lr=0.1 --workdir runs/448
    ... --config configs/resolution_study.py:res=448,init=runs/224,lr=0.01,freeze=2 --workdir runs/f

Published top-1, from scratch (`res`): 224 76.548, 320 77.698, 416 78.026, 448 77.826. From the 224
weights, trained the same way (`res`, `init`): 320 78.052, 416 78.572, 448 78.722; step by step
(`at`, the resolution of the weights) 320 -> 416 78.678, 416 -> 448 78.542. Finetuned 224 -> 448 for
40 epochs (`init`, `lr`): lr=0.1 78.924, lr=0.01 78.736; frozen as well (`freeze`): 1 at lr=0.1
78.796; at lr=0.01, 2 78.822, 3 78.05, 4 74.432.

Deviations: cross-replica BatchNorm; bfloat16 where the study has another mixed precision; norm
parameters are spared from the decay of 1e-4; the study does not say how it resized for evaluation,
here to 256 / 224 of the resolution.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg

SCRATCH = {224: 0.76548, 320: 0.77698, 416: 0.78026, 448: 0.77826}
LOADED = {  # from the weights of the first
    (224, 320): 0.78052,
    (224, 416): 0.78572,
    (224, 448): 0.78722,
    (320, 416): 0.78678,
    (416, 448): 0.78542,
}
FINETUNED = {
    (0.1, -1): 0.78924,
    (0.01, -1): 0.78736,
    (0.1, 1): 0.78796,
    (0.01, 2): 0.78822,
    (0.01, 3): 0.7805,
    (0.01, 4): 0.74432,
}


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'res=448,init=runs/224,at=224,lr=0.01,freeze=2'."""
    args = parse_arg(arg, res=224, init='', at=224, lr=1.0, freeze=-1)
    if not args.init and (args.at, args.lr, args.freeze) != (224, 1, -1):
        raise ValueError('config arguments at, lr and freeze go with weights: give init=WORKDIR')
    finetune = args.lr != 1
    config = inherit(__file__, 'base.py')
    config.batch_size = 1024
    config.duration = '40 epochs' if finetune else '90 epochs'
    config.augment[0].size = args.res
    config.evaluate.preprocess[0].size = round(args.res * 256 / 224)
    config.evaluate.preprocess[1].size = args.res
    config.optimizer = ConfigDict({'lr': 0.1 * args.lr, 'weight_decay': 1e-4, 'decay': 'coupled'})
    config.schedule = ConfigDict(
        {'name': 'cosine', 'warmup': '0 epochs' if finetune else '5 epochs'}
    )
    config.reference.source = 'the resolution study'
    if finetune and (args.at, args.res) == (224, 448):
        config.reference.top1 = FINETUNED.get((args.lr, args.freeze))
    elif not finetune and args.freeze == -1:
        loaded, scratch = LOADED.get((args.at, args.res)), SCRATCH.get(args.res)
        config.reference.top1 = loaded if args.init else scratch
    if args.init:
        config.init = ConfigDict({'source': args.init, 'freeze': args.freeze})
    return config
