package offline

func (g *guest) windows() {}
