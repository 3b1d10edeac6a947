"""What flows between stages: one module for each artifact, with its schema, reader, writer and check."""
