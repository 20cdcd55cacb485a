"""Generated from `proto/akpolicy/v1` by `make proto`; never edited by hand."""
