"""The networks of the papers in plain torch: attention, decoder, encoders."""
