"""Files, and batches of requests in them: many requests at low priority, whose results are files.

contents.py    where the bytes of files are: a directory, or S3 and its like
files.py       /v1/files            shapes.py   what both APIs say
batches.py     /v1/batches          lines.py    the lines of an input file, checked
call.py        one request through the application, as from a client
work.py        one batch, from its input to its output
runner.py      which batches this gateway works on
"""
