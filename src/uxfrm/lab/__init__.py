"""Small networks of namespaces to see uxfrm work in: two hosts, a router between that is watched, gateways.

    with Lab(two_gateways()) as lab:
        lab.run("a", "ping", "-c1", "10.2.0.2")
        print(lab.watch.seen())

Rule 1: what a lab makes is in network namespaces of its own, and goes with it; what one that was killed left
        is found by its names and removed by the next.
Rule 2: it knows nothing of XFRM: what runs on its nodes is started like any other program.
"""
