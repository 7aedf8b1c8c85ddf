"""What a method may ask of its pipeline: prompts, pictures, classifiers."""
