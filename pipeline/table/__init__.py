"""The output table: one current row for each input, also after crashes. It uses neither Ray nor torch nor tasks."""
