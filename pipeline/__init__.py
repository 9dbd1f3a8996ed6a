"""Segment images and documents at cluster scale; masks and paragraph boundaries land in Parquet.

Four nouns, one direction. A *model* maps tensors to tensors and knows no file. A *task* turns rows into tensors and
tensors into rows, and owns the columns of the output. A *source* is a set of URIs; a *table* is the Parquet that comes
out. A *job* (in the package ``jobs``) wires them into a command that someone submits.
"""
