"""Finetune weights that exist on your own images.

    python -m jcls.main --config configs/finetune.py:dataset=DIR,source=SRC --workdir runs/mine
    jcls predict runs/mine new.jpg

DIR holds train/<class>/* and val/<class>/*, or <class>/* alone (a tenth is then held out). SRC is a
workdir of jcls, a folder of ``jcls import``, or what that takes: a file of torchvision, timm,
mmpretrain or PaddleClas, an https address, 'hf:timm/resnet50.a1_in1k'. The architecture and
norm.epsilon are those of the workdir or folder; of a file or an address say `arch`, if it is not
resnet50 (a mismatch is told in the first seconds). `freeze` counts stages as mmpretrain does.

Sources: PaddleClas, "Tricks for Training", finetuning: without the classifier's weights, at a rate
of 0.001 for fewer than 1,000 images up to 0.01 for more than 100,000. Short, and without warm-up:
the weights are good already.

There is no published accuracy. `jcls config explain` shows the rate that the dataset's size makes,
for good weights and images like theirs. Where the loss hardly falls in the first epochs, give a
higher one: --config.optimizer.lr=0.05 (for a batch of 256).
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg
from jcls.weights.imported import sections


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'dataset=DIR,source=SRC,arch=resnet50d'.

    And 'epochs=20,freeze=2,res=224,batch=64'.
    """
    args = parse_arg(
        arg, dataset='~/images', source='', arch='', epochs=20, freeze=-1, res=224, batch=64
    )
    if args.freeze != -1 and not args.source:
        raise ValueError(f'freeze={args.freeze} keeps random weights as they are: give a source')
    config = inherit(__file__, 'base.py')
    config.batch_size = args.batch
    config.duration = f'{args.epochs} epochs'
    config.data.dir = args.dataset
    known = sections(args.source) if args.source else {}
    shape = {'name': args.arch} if args.arch else known.get('model', {})
    config.model = ConfigDict({'name': 'resnet50', **shape, 'dtype': 'float32'})
    config.norm = ConfigDict(known.get('norm', {}))
    config.augment[0].size = args.res
    config.evaluate.preprocess[0].size = args.res * 8 // 7
    config.evaluate.preprocess[1].size = args.res
    config.optimizer = ConfigDict({'lr': 'by_dataset_size'})
    config.schedule = ConfigDict({'name': 'cosine'})
    if args.source:
        config.init = ConfigDict({'source': args.source, 'head': 'new', 'freeze': args.freeze})
    config.reference = ConfigDict({'examples': 10_000, 'classes': 10})
    return config
