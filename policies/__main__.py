from policies.pack import run

run()
