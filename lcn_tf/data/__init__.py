"""From interactions to batches: builder, records, datasets."""
