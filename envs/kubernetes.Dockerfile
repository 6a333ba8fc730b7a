# The image that pods of config/profiles/kubernetes run in: docker build -f envs/kubernetes.Dockerfile -t NAME .
# The workflow itself is not in it: Snakemake sends it to each pod.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY requirements.txt requirements-kubernetes.txt /tmp/
RUN pip install --no-cache-dir -r /tmp/requirements.txt -r /tmp/requirements-kubernetes.txt
