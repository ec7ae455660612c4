"""The command `kt-merge`: `kt_merge.main`. All else here is its inside."""
