"""Guiders on Diffusers pipelines: ``guided`` and what it attaches."""
