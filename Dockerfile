# Serve trained tasks on a CPU:
#   docker build -t xmodal .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/work_dirs:/runs:ro" xmodal /runs/mine /runs/other
# PIP_ARGS are further arguments of pip, such as an index that has torch without CUDA.
FROM python:3.11-slim
ARG PIP_ARGS=""
WORKDIR /app
COPY . /app
RUN pip install --no-cache-dir $PIP_ARGS -c constraints.txt '.[serve,points]'
RUN useradd --create-home serve
USER serve
WORKDIR /home/serve
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["xmodal", "serve", "--host", "0.0.0.0", "--port", "8000"]
