"""Folders in an object store or on HDFS (`s3://`, `gs://`, `hdfs://`): read, copied, and put back.

store        files and folders behind a URL, and what stores say when they fail
mirror       local copies of inputs
working      a folder that a command writes: a local copy that is put back, held by a lease
lease        who holds a folder of a store

Commands work on local copies, in their folder for temporary files. So whatever is whole on a disk, at any moment, is
what the store gets, in the same order. The shards of a record set alone are not copied: TensorFlow streams them.
"""
