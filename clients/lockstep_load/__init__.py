"""`lockstep load`: a load generator for Lockstep and any other Open Inference server.

Command line or scenario file (command.py, scenario.py) → `Workload` and `LoadProfile` (plan.py) → one
`WorkerJob` per worker process (worker_pool.py, worker.py) → requests, serialised in advance (requests.py) →
sent when they are due (arrivals.py, pacer.py, driver.py, senders.py) → one record per request
(worker_messages.py) → over a pipe → `RunCounts` (counts.py), which keeps histograms → a document
(results.py, documents.py) with a check of the generator itself (validity.py) → summary, JSON, HTML.

Without worker processes, for benchmarks and the demo: in_process.py.

experiments.py, search.py, contrast.py and compare.py combine several runs.
"""
