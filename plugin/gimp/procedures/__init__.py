"""The procedures that GIMP can call. GIMP imports these modules at its start, so they are small."""
