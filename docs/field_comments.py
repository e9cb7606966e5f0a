"""For the pages of the API: a field of a class is documented by the comment beside it."""

from typing import Any

import griffe

from make_options import comments


class FieldComments(griffe.Extension):
  """Makes the comments of fields their docstrings."""

  def on_class_members(self, *, cls: griffe.Class, **unused: Any):
    """Called by griffe when the members of a class are known."""
    del unused
    for name, text in comments(cls.source).items():
      field = cls.members.get(name)
      if field is not None and field.is_attribute and not field.docstring:
        field.docstring = griffe.Docstring(text, parent=field)
