"""Pages: what a report, a calibration, a curve looks like as an HTML file that needs no network."""
