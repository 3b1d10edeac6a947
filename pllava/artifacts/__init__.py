"""Files that stages exchange: one module for each artifact, with its schema, reader, writer and check."""
