#!/usr/bin/env php
<?php
// Answer a key request from a table `agents (id, name, ip, key)` in MySQL or MariaDB.
//
// Usage: agents_from_mysql.php FILE id|ip VALUE
//
// FILE is an INI file with `dsn`, `user` and `password`, which only the program's user can read.
// Prints {"error": 0, "data": {…}}, or {"error": N, "message": "…"} with one of the codes of agents_from_sql.py.

const STATEMENTS = [
    'id' => 'SELECT id, name, ip, `key` FROM agents WHERE id = ? LIMIT 2',
    'ip' => 'SELECT id, name, ip, `key` FROM agents WHERE ip = ? LIMIT 2',
];

function answer(array $arguments): array
{
    [$file, $kind, $value] = $arguments + ['', '', ''];
    if (count($arguments) !== 3 || !isset(STATEMENTS[$kind]) || $value === '') {
        return ['error' => 1, 'message' => 'expected FILE id|ip VALUE'];
    }
    if (!extension_loaded('pdo_mysql')) {
        return ['error' => 2, 'message' => 'the extension pdo_mysql is not installed'];
    }
    try {
        $agents = find_agents($file, $kind, $value);
    } catch (PDOException) {
        return ['error' => 3, 'message' => 'the database cannot be read'];
    }
    return match (count($agents)) {
        0 => ['error' => 4, 'message' => "there is no agent of this $kind"],
        1 => ['error' => 0, 'data' => $agents[0]],
        default => ['error' => 5, 'message' => "there are several agents of this $kind"],
    };
}

function find_agents(string $file, string $kind, string $value): array
{
    $settings = is_readable($file) ? parse_ini_file($file, false, INI_SCANNER_RAW) : [];
    $database = new PDO($settings['dsn'] ?? '', $settings['user'] ?? '', $settings['password'] ?? '', [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
        PDO::ATTR_EMULATE_PREPARES => false, // the server binds the value
        PDO::ATTR_TIMEOUT => 5,
    ]);
    $statement = $database->prepare(STATEMENTS[$kind]);
    $statement->execute([$value]);
    return $statement->fetchAll(PDO::FETCH_ASSOC);
}

echo json_encode(answer(array_slice($argv, 1))), "\n";
