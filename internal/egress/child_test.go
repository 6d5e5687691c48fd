package egress

func child(string) {}
