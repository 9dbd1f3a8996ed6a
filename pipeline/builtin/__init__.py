"""Model packages that are a part of this project: ``builtin:NAME`` is the folder NAME here."""
