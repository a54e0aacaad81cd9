"""Images made small once, in few files: the source `store`, and the command that writes it.

A store is a folder of files such as `train-00000-of-00313.array_record`, whose records are encoded
images, and of `store.json`: labels, names of the classes, and what each of the files must be like.
"""

INDEX = "store.json"
