"""A program with the SDK of one cloud, as its users write it: everything is in the environment.

    client.py aws|gcp|azure|kubernetes

A line of input that is a path puts that file into the variable of the SDK and begins anew; an empty
line asks once more with what there is; `+N` sets the clock of this process N seconds ahead. Each line
but the last kind is answered with what was granted, or with "refused" and why.
"""

import itertools
import logging
import os
import sys
import time


class Aws:
    variable = "AWS_WEB_IDENTITY_TOKEN_FILE"

    def __init__(self):
        import boto3

        self.credentials = boto3.Session().get_credentials()

    def ask(self):
        return self.credentials.get_frozen_credentials().token


class Gcp:
    variable = "GOOGLE_APPLICATION_CREDENTIALS"

    def __init__(self):
        import google.auth
        from google.auth.transport.requests import Request

        scope = "https://www.googleapis.com/auth/cloud-platform"
        # Scopes come later: with them, it would ask Google for the name of the project.
        self.credentials = google.auth.default()[0].with_scopes([scope])
        self.request = Request()

    def ask(self):
        # What before_request() does for each request, without its look at Google's regions.
        if self.credentials.token_state.name != "FRESH":
            self.credentials.refresh(self.request)
        return self.credentials.token


class Azure:
    variable = "AZURE_FEDERATED_TOKEN_FILE"

    def __init__(self):
        from azure.identity import WorkloadIdentityCredential

        self.credential = WorkloadIdentityCredential()
        # Access tokens are kept for each scope: a new one, a new request.
        self.scopes = (f"https://{n}.example.com/.default" for n in itertools.count())

    def ask(self):
        return self.credential.get_token(next(self.scopes)).token


class Kubernetes:
    variable = "KUBECONFIG"

    def __init__(self):
        from kubernetes import client, config

        # The library has read the variable when it was imported.
        configured = config.new_client_from_config(os.environ[self.variable])
        self.api = client.AuthenticationV1Api(configured)
        self.review = client.V1SelfSubjectReview()

    def ask(self):
        review = self.api.create_self_subject_review(self.review)
        return review.status.user_info.username


sdk = {"aws": Aws, "gcp": Gcp, "azure": Azure, "kubernetes": Kubernetes}[sys.argv[1]]
logging.disable()
real, ahead, program = time.time, 0, None
time.time = lambda: real() + ahead
for line in sys.stdin:
    line = line.strip()
    if line.startswith("+"):
        ahead += int(line)
        continue
    try:
        if line:
            os.environ[sdk.variable] = line
        if line or not program:
            program = sdk()
        print(program.ask(), flush=True)
    except Exception as error:
        print("refused", " ".join(str(error).split()), flush=True)
