"""Twenty prompts for models that continue text."""

PROMPTS = [
    "The capital of France is", "Once upon a time", "2 + 2 =", "def fibonacci(n):\n",
    "Water boils at", "The opposite of hot is", "In 1969, astronauts", "To make a cup of tea,",
    "Dear Sir or Madam,\n", "A prime number is a number that", "Roses are red,\nviolets are",
    "The chemical symbol for gold is", "import numpy as np\n", "The largest planet is",
    "Question: What is 12 times 3?\nAnswer:", "Il était une fois", "Monday, Tuesday, Wednesday,",
    "<html>\n<head>\n", "My favourite colour is", "If all cats are animals, and Tom is a cat, then",
]
