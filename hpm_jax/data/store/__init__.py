"""Stores of resized images in few files: the source `store`, and the command that writes it.

A store is a folder of files such as `train-00000-of-00313.array_record`, whose records are encoded
images, and of `store.json` with labels, class names, and sizes of the files.
"""

INDEX = "store.json"
