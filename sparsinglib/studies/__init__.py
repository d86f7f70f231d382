"""One package a topic, the same rooms in each: numbers, figures, claims."""
