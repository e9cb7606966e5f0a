"""Tasks: problems with checkable answers, each naming the verifier that scores it."""
