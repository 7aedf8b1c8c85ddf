"""Many pictures drawn and measured."""
