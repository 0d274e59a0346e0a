"""Providers: registry, vault, budgets and the calls that go out to models."""
