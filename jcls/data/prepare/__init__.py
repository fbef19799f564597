"""From a folder or tar of images to a TFDS dataset, the steps of `jcls.tools.prepare`.

find -> listing, archive (what there is) -> inspect (what each image is) -> report, plan (what goes
where) -> encode, write (the dataset); job is the folder that all of this can be interrupted in.
"""
