"""Documents: splitting them into sentences, features of the sentences, the task, and paragraphs as rows."""
