"""What formulas_worker.py calls: one module for each project, or two. Runs in .peers/formulas."""
