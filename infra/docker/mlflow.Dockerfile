# MLflow's tracking server, with the driver of PostgreSQL and that of S3-compatible storage.
#
#   docker build --file infra/docker/mlflow.Dockerfile --tag outerloop-mlflow:0.1.0 infra/docker
ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION}-slim-bookworm
ARG MLFLOW_VERSION=3.17.2
RUN pip install --no-cache-dir --disable-pip-version-check \
  "mlflow==$MLFLOW_VERSION" "psycopg2-binary>=2.9,<3" "boto3>=1.35,<2" \
  && groupadd --gid 1000 mlflow \
  && useradd --uid 1000 --gid 1000 --create-home mlflow \
  && install --directory --owner=mlflow --group=mlflow /artifacts
USER 1000:1000
WORKDIR /home/mlflow
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=4 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=5)"]
ENTRYPOINT ["mlflow"]
CMD ["server", "--help"]
