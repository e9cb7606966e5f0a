"""Where prompts and examples come from: tasks, sources, packing and resumable iterators."""
