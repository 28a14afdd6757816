"""Operations: the run folder, where jobs run, and what is known of each task."""
