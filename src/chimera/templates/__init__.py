"""Templates: prompt templates, their versions and their rendering."""
