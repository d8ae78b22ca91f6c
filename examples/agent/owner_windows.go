package main

// asOwner has nothing to refuse: files take their rights from their folder.
func asOwner(string) error { return nil }
