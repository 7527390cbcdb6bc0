"""Prompts with verifiers, by difficulty."""
