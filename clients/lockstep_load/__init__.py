"""`lockstep load`: drive a server, and say honestly what it did.

what is asked for (command.py, scenario.py) → `Workload` and `Load` (plan.py) → a `Job` for each generator
process → requests, serialised beforehand (requests.py) → sent when they are due (arrivals.py, pacer.py,
driver.py) → `Log` (records.py) → over a pipe → `Ledger` (ledger.py), which keeps histograms → `Run`
(result.py), with a verdict on the generator itself (verdict.py) → summary, JSON, HTML.

search.py, contrast.py and compare.py are made of many such runs. Nothing here serves: any Open Inference
server can be asked.
"""
