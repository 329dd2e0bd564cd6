-- One database for each program, made when the server starts for the first time.
CREATE DATABASE dagster;
CREATE DATABASE mlflow;
