"""Segment images and documents at cluster scale; masks and paragraph boundaries are written to Parquet.

There are five terms. A *model* maps tensors to tensors and reads no files. A *task* turns rows into tensors and tensors
into rows, and defines the columns of the output. A *source* is a set of URIs. A *table* is the Parquet output. A *job*
(in the package ``jobs``) is a command that connects them.
"""
