"""What supervises a student: targets live, in memory, on disk or as codes, and the teacher's task posteriors."""
