@echo off
rem Installs Dimilinks for GIMP: double-click this file in the unpacked folder.
cd /d "%~dp0"
where py >nul 2>nul
if errorlevel 1 (python -m installer %*) else (py -3 -m installer %*)
if errorlevel 9009 echo Python is missing: install it from python.org, then try again.
pause
