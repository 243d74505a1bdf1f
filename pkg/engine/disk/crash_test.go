package disk_test

func childMain() {}
