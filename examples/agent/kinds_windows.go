package main

// osKinds are this system's own backends.
var osKinds = map[string]kind{}
