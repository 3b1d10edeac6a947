"""Stage `report`: tables and plots for a person."""
