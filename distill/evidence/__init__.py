"""What a finished run shows: how sure its scores are, tables and figures, and answers to what people ask of it."""
