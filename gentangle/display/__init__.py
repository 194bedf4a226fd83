"""What the book shows: figures, formulas, widgets, and the ledger of claims."""
