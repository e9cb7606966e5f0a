"""The functions called by formulas_worker.py, one or two modules per project. In .peers/formulas.
"""
