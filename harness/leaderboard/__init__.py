"""From records to the boards that people read: `boards.make`, `boards.write`; `committed` keeps the committed ones."""
