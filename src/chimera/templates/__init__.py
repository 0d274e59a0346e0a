"""Templates: prompt templates, their versions and rendering, and datasets. See README.md here."""
