"""Validates configs before anything is loaded or compiled; each error is one sentence."""
